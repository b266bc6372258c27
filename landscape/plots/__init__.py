"""Pictures of records: every plot_<record>(record, ax=None, **style) draws and returns its axes, and computes nothing."""

from .captions import comparison_captions as comparison_captions
from .embeddings import plot_embedding as plot_embedding
from .embeddings import plot_embedding_control as plot_embedding_control
from .figures import comparison_figures as comparison_figures
from .figures import save_axes as save_axes
from .figures import save_figures as save_figures
from .findings import comparison_findings as comparison_findings
from .flatness import plot_depth as plot_depth
from .flatness import plot_flatness as plot_flatness
from .flatness import plot_spectrum as plot_spectrum
from .interactive import interactive_figures as interactive_figures
from .paths import plot_barriers as plot_barriers
from .paths import plot_path as plot_path
from .paths import plot_paths as plot_paths
from .runs import plot_corridor as plot_corridor
from .runs import plot_corridors as plot_corridors
from .runs import plot_curves as plot_curves
from .scans import plot_cells as plot_cells
from .scans import plot_profile as plot_profile
from .scans import plot_profiles as plot_profiles
from .scans import plot_sampled as plot_sampled
from .scans import plot_surface as plot_surface
from .style import optimizer_colors as optimizer_colors
from .style import optimizer_markers as optimizer_markers
from .tracks import plot_track as plot_track
from .tracks import plot_tracks as plot_tracks
