"""What was seen: record files of every kind, read, checked and written here."""
