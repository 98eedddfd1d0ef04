"""Policies: what to ask a user next, given what a method believes of them."""
