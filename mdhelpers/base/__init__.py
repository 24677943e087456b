"""Under everything: places, records, validated mappings, arrays in files, threads."""
