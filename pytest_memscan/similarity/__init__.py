"""How alike a generated and a training image are: distances and nearest neighbours."""
