"""The way to a panel over HTTP, whichever kind it is: signed in, gently, in requests that fit."""
