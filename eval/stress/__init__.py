"""Stress: hostile input, long runs, kills, and fast paths against slow ones."""
