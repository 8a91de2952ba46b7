"""The seed instructions: read row by row, cleaned, and drawn."""
