"""Label tables: spreadsheets, joining, classes, annotators, masks."""
