"""Labels per word: texts of words with tags, their files and their scores."""
