"""Results of many trials as one table: found, chosen, summarised, and written."""
