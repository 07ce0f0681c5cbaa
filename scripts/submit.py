"""A challenge: predictions are handed in and scored against labels that the participants do not have.

python scripts/submit.py open my_challenge --dataset fashion --dataset abt_buy   secret/, and handout/ to send to participants
python scripts/submit.py open my_challenge --track NAME                          datasets and tracks of configs/track/NAME.yaml
python scripts/submit.py check my_challenge fashion predictions.csv              would it be accepted? scores and counts nothing
python scripts/submit.py send my_challenge "Team A" fashion.parquet              score and keep it; prints the public score
python scripts/submit.py send my_challenge "Team A" predictions/                 <dataset>.parquet or .csv of several, all or none
python scripts/submit.py history my_challenge "Team A"                           all attempts
python scripts/submit.py standings my_challenge -o board                         by public scores; --final by private ones
"""

from mmtab.cli.commands import run, submit_app

if __name__ == "__main__":
    run(submit_app)
