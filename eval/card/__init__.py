"""From results/ to the model card and the evidence."""
