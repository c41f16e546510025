"""How large the models of a ladder are: from a teacher down to a student that fits a budget."""
