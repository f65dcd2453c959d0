"""What runs inside worker processes: one file per pool, and the row, media and storage they share. No Ray."""
