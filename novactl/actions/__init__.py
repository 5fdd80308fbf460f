"""One module per verb: check reads, claim and plan decide in one transaction; steps/ does."""
