//! Figures as pictures: SVG, drawn from what was measured.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::register_font as register;

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Colour-blind safe (Okabe and Ito), in the order of use.
pub(crate) const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// Above the lines there is room for what their colours mean.
const HEADROOM: f64 = 1.5;

/// Text has the sizes of this font; whoever shows an SVG may have another one. It comes with the program:
/// not every machine has one.
pub(crate) fn register_font() -> anyhow::Result<()> {
    register("sans-serif", FontStyle::Normal, dejavu::sans::regular())
        .map_err(|_| anyhow::anyhow!("reading the font of the pictures"))
}

/// What a colour looks like, beside what it means.
pub(crate) fn swatch((x, y): (i32, i32), colour: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled())
}

/// One line of a chart.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over time.
pub(crate) fn lines(
    file: &Path,
    title: &str,
    x: &str,
    y: &str,
    lines: &[Line],
) -> anyhow::Result<()> {
    let draw = || -> Drawn {
        let root = SVGBackend::new(file, (900, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let points = || lines.iter().flat_map(|line| &line.points);
        let x_max = points().map(|point| point.0).fold(1.0, f64::max);
        let y_max = points().map(|point| point.1).fold(1.0, f64::max) * HEADROOM;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(x)
            .y_desc(y)
            .y_label_formatter(&|value| format!("{value:.0}"))
            .label_style(("sans-serif", 14))
            .draw()?;
        for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
            let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
            chart
                .draw_series(series)?
                .label(&line.name)
                .legend(|at| swatch(at, *colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.9))
            .label_font(("sans-serif", 14))
            .draw()?;
        root.present()?;
        Ok(())
    };
    draw().map_err(|error| anyhow::anyhow!("drawing {}: {error}", file.display()))
}

/// One bar of a chart: its parts, in the order of `parts`.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
}

/// Bars from left to right, one below the other, each in parts.
pub(crate) fn bars(
    file: &Path,
    title: &str,
    x: &str,
    parts: &[&str],
    bars: &[Bar],
) -> anyhow::Result<()> {
    let draw = || -> Drawn {
        let height = 130 + 48 * u32::try_from(bars.len())?;
        let root = SVGBackend::new(file, (900, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let longest = bars.iter().map(|bar| bar.values.iter().sum::<f64>());
        // Beside the longest there is room for what the colours mean.
        let x_max = longest.fold(0.0, f64::max) * 1.25;
        let rows = bars.len() as f64;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(150)
            .build_cartesian_2d(0.0..x_max, 0.0..rows)?;
        let name = |y: &f64| {
            let row = (rows - y).floor();
            match (y.fract() - 0.5).abs() < 0.01 {
                true => bars
                    .get(row as usize)
                    .map_or(String::new(), |bar| bar.name.clone()),
                false => String::new(),
            }
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(x)
            .y_labels(2 * bars.len() + 1)
            .y_label_formatter(&name)
            .label_style(("sans-serif", 14))
            .draw()?;
        for (nth, (part, colour)) in parts.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let boxes = bars.iter().enumerate().map(|(row, bar)| {
                let from: f64 = bar.values.iter().take(nth).sum();
                let to = from + bar.values.get(nth).copied().unwrap_or(0.0);
                let y = rows - row as f64;
                Rectangle::new([(from, y - 0.8), (to, y - 0.2)], colour.filled())
            });
            chart
                .draw_series(boxes)?
                .label(*part)
                .legend(|at| swatch(at, *colour));
        }
        if parts.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.9))
                .label_font(("sans-serif", 14))
                .draw()?;
        }
        root.present()?;
        Ok(())
    };
    draw().map_err(|error| anyhow::anyhow!("drawing {}: {error}", file.display()))
}
