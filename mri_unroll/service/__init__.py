"""The inference service: HTTP with durable jobs and a page. Every job walks the road that the command line walks."""
