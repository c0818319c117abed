import multiprocessing
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
if __name__ == "__main__":
    # Processes of parallel tests that are not forked, as with Python 3.14, have copies of SQLite in their memory.
    multiprocessing.set_start_method("fork")
    execute_from_command_line(sys.argv)
