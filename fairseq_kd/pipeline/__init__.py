"""A run: from its YAML file to trained and evaluated students, by Snakemake or a shell script."""
