"""The parts of scripts/gpu_programme.py."""
