"""Instruction data: readers, formats, cleaning, near duplicates, decontamination and novelty."""
