"""Operations of the graph bound to engines and protocols."""
