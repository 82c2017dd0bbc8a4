"""What the studio page is made of: takes, drawings, words, and the gate that it stands behind."""
