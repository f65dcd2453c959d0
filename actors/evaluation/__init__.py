"""What finished clips show and say, measured: lengths, words, mouths, colours."""
