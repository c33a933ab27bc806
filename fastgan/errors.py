"""The one error that is meant for a person to read."""


class UserError(ValueError):
    """Something a person can put right: the message says what was wrong, where, and what to do.

    The command line prints it as one line and exits with code 2; the app shows it in the page.
    """


BAD_TOKEN = "the Hub does not take the token that is set here: run `hf auth login`, or leave HF_TOKEN out"
NO_FOLDER = ". There is no folder of that name here either"  # after what the Hub says of a name
