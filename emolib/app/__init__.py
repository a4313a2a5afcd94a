"""What people use: the classifier for their own items, tables of them, the demo, published pages."""
