"""Where an instance goes, and why: pure functions over hosts as the database knows them."""
