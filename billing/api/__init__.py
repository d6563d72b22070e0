"""Plans and billing accounts under /api/."""
