"""Weekly and monthly reports: drawn, written, sent once to each reader, and ended by a link in each of them."""
