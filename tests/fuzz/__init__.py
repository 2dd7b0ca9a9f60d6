"""Differential fuzzing of the two lanes: contracts drawn at random, records made for them and spoiled, both lanes compared.

    make fuzz MINUTES=2 SEED=1          or          python -m tests.fuzz --minutes 2 --seed 1

What ever differed is kept in `corpus.json` and tested with everything else.
"""
