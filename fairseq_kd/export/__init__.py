"""Export of a student as a CTranslate2 folder with everything that translation needs."""
