"""`python -m softnce_ray`."""

from softnce_ray.cli import main

main()
