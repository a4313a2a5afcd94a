"""What comes out: records of predictions, and what is made of them: scores, tables, figures. No torch."""
