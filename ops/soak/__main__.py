"""`python -m ringcast.soak`."""

from ringcast.soak.run import main

main()
