"""What is asked of a derivative, in this order; each check looks at a hearing and answers with an outcome."""
