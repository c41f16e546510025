"""The stages of a distillation, each one ``fairseq-train`` process that survives interruptions."""
