"""Whom to believe, question by question: how much each teacher's text counts beside the others'."""
