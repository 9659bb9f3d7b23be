"""`python -m ringcast.replay`: the process that `process.spawned` starts."""

from ringcast.replay.process import main

main()
