"""What speaks against a body: every check of the quality gate, each with its reason code and the value that was found."""
