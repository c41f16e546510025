"""A student as it is handed on: a CTranslate2 directory with all that translating takes."""
