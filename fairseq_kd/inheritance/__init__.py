"""Students that start from a teacher's weights: importance of its parts, copies, checkpoint."""
