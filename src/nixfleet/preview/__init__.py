"""What an update would do, worked out before anybody signs it: closures, their differences, the preview itself.

Pure: what devices report and what caches say comes in as arguments. It must never judge a right, nor take a number for
exact that rests on a path nobody knows.
"""
