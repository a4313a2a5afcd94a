"""What goes in: one `Dataset`, readers that make one, the study's own sets, audit and pairing. No torch."""
