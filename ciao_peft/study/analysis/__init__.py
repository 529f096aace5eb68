"""What the records of a study say: results, comparisons and their statistics."""
