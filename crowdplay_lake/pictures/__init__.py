"""Episodes to look at: in a notebook, as a picture of a step, as a video, as charts of a whole lake.

Imported where something is drawn, and only then.
"""
