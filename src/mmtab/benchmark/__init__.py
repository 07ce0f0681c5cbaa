"""Systems compared on tracks of datasets: runs, scores, statistics, the scoreboard and the challenge."""
