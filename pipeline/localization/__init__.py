"""A campaign of scenes in many languages: lines checked and timed, clips asked for, and what is handed on."""
