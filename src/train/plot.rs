//! The loss plot: every update's loss, and its running mean.

use std::path::Path;

use plotters::prelude::*;

use super::RunDirError;

/// The loss of each update and a mean over its neighbours, as an SVG document.
///
/// `losses` are (update, nats per loss token). Returns `None` for fewer than two updates.
pub fn loss_svg(title: &str, losses: &[(u64, f64)]) -> Option<Result<String, String>> {
    if losses.len() < 2 || losses.iter().any(|(_, loss)| !loss.is_finite()) {
        return None;
    }
    let mut svg = String::new();
    let drawn = draw(&mut svg, title, losses).map_err(|e| e.to_string());
    Some(drawn.map(|()| svg))
}

fn draw(
    svg: &mut String,
    title: &str,
    losses: &[(u64, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    const RAW: RGBColor = RGBColor(158, 188, 218);
    const MEAN: RGBColor = RGBColor(8, 81, 156);
    let root = SVGBackend::with_string(svg, (900, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let (first, last) = (losses[0].0 as f64, losses[losses.len() - 1].0 as f64);
    let lowest = losses.iter().map(|l| l.1).fold(f64::INFINITY, f64::min);
    let highest = losses.iter().map(|l| l.1).fold(f64::NEG_INFINITY, f64::max);
    let margin = ((highest - lowest) * 0.06).max(1e-3);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(first..last, (lowest - margin).max(0.0)..highest + margin)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(228, 228, 228))
        .axis_style(RGBColor(90, 90, 90))
        .x_desc("update")
        .y_desc("loss (nats per token)")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    let raw = losses.iter().map(|&(step, loss)| (step as f64, loss));
    chart
        .draw_series(LineSeries::new(raw, RAW.stroke_width(1)))?
        .label("each update")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], RAW.stroke_width(1)));
    let window = (losses.len() / 20).clamp(1, 200);
    chart
        .draw_series(LineSeries::new(mean(losses, window), MEAN.stroke_width(2)))?
        .label(format!("mean of {} updates", 2 * window + 1))
        .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], MEAN.stroke_width(2)));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .label_font(("sans-serif", 14))
        .margin(8)
        .draw()?;
    root.present()?;
    Ok(())
}

/// The mean of each point with up to `window` neighbours on both sides.
fn mean(losses: &[(u64, f64)], window: usize) -> Vec<(f64, f64)> {
    (0..losses.len())
        .map(|i| {
            // Narrower at the ends, so that the line begins and ends at the data.
            let reach = window.min(i).min(losses.len() - 1 - i);
            let near = &losses[i - reach..=i + reach];
            let sum: f64 = near.iter().map(|l| l.1).sum();
            (losses[i].0 as f64, sum / near.len() as f64)
        })
        .collect()
}

/// Draws `losses` into the file.
pub fn write_loss_plot(path: &Path, title: &str, losses: &[(u64, f64)]) -> Result<(), RunDirError> {
    match loss_svg(title, losses) {
        None => Ok(()),
        Some(Err(message)) => Err(RunDirError::Plot { path: path.to_path_buf(), message }),
        Some(Ok(svg)) => std::fs::write(path, svg)
            .map_err(|source| RunDirError::Write { path: path.to_path_buf(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_labels_and_both_lines() {
        let losses: Vec<(u64, f64)> = (1..=60).map(|i| (i, 3.0 / (i as f64).sqrt())).collect();
        let svg = loss_svg("Training loss", &losses).expect("enough points").expect("drawn");
        for text in ["Training loss", "update", "loss (nats per token)", "mean of 7 updates"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.matches("<polyline").count() >= 2);
        assert!(loss_svg("t", &losses[..1]).is_none());
        assert!(loss_svg("t", &[(1, 1.0), (2, f64::NAN)]).is_none());
        // A flat line still has a range to draw in.
        assert!(loss_svg("t", &[(1, 1.0), (2, 1.0)]).expect("points").is_ok());
    }

    #[test]
    fn the_mean_ends_at_the_data() {
        let losses: Vec<(u64, f64)> = (0..9).map(|i| (i, (i * i) as f64)).collect();
        let mean = mean(&losses, 2);
        assert_eq!(mean[0], (0.0, 0.0));
        assert_eq!(mean[8], (8.0, 64.0));
        assert_eq!(mean[4], (4.0, (4.0 + 9.0 + 16.0 + 25.0 + 36.0) / 5.0));
    }
}
