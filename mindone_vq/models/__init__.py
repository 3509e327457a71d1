"""The networks: pixels <-> codes (vq_model), codes and text -> log p(x_0) (transformer)."""
