"""The one error that is meant for a person to read."""


class UserError(ValueError):
    """Something a person can put right: the message says what was wrong, where, and what to do.

    The command line prints it as one line and exits with code 2; the app shows it in the page.
    """


NO_FOLDER = ". There is no folder of that name here either"  # after what the Hub says of a name
