"""What only training needs: objective, student's start, texts. Nothing here is needed to encode."""
