"""Records to lines of text: pure functions of a record, the time and a width; no Textual, no IO, no clock."""
