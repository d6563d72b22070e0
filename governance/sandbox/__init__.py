"""Made-up spend with known answers, for measuring what judges real spend. Nothing of the running product uses it."""
