"""The client that measures a server under load: any server that speaks OpenAI's API, by its streams.

| file            | what it holds                                                                       |
| --------------- | ----------------------------------------------------------------------------------- |
| `requests.py`   | what is asked: prompts of a file, or made from a seed                               |
| `records.py`    | what came of one request, and when                                                  |
| `events.py`     | server-sent events from pieces of bytes, and what a chunk of a stream says          |
| `sender.py`     | one request over HTTP, into its record; the only file that knows the network        |
| `loops.py`      | who asks when: a number of clients, or arrivals at a rate; the client's own cost    |
| `measures.py`   | from records to figures: percentiles, goodput, fairness                             |
| `plot.py`       | latencies over time, as a picture                                                   |

`docs/serving.md` ("Load") defines every figure. All but `sender.py` and `loops.py` are pure.
"""
