"""Tests that ask the providers' official Python SDKs whether we read and write as they do."""
