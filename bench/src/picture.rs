//! What happened over time: panels one below the other with one axis of time, as SVG and as PNG.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::Context as _;
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::chart::{COLOURS, Line, swatch};

const WIDTH: u32 = 1200;
const TITLE_HEIGHT: u32 = 70;
const PANEL_HEIGHT: u32 = 270;
const FONT: &str = "sans-serif";
/// Above the lines of a panel, as a share of their height: for what the colours mean, and for each of them.
const HEADROOM: (f64, f64) = (0.15, 0.2);
const SHADE: RGBColor = RGBColor(240, 228, 190);

/// Panels that share their time.
pub(crate) struct Picture {
    pub(crate) title: String,
    pub(crate) panels: Vec<Panel>,
    /// From when to when something was different, and what.
    pub(crate) span: (f64, f64, &'static str),
    /// Moments at which something was done, and what.
    pub(crate) marks: (Vec<f64>, &'static str),
    /// The last second.
    pub(crate) until: f64,
}

/// Lines of one unit.
pub(crate) struct Panel {
    pub(crate) unit: &'static str,
    pub(crate) lines: Vec<Line>,
}

impl Picture {
    /// Writes `<stem>.svg` and `<stem>.png`.
    pub(crate) fn write(&self, stem: &Path) -> anyhow::Result<()> {
        let size = (
            WIDTH,
            TITLE_HEIGHT + PANEL_HEIGHT * u32::try_from(self.panels.len())?,
        );
        let svg = stem.with_extension("svg");
        let on_svg = self.draw(&SVGBackend::new(&svg, size).into_drawing_area());
        on_svg.map_err(|error| anyhow::anyhow!("drawing {}: {error}", svg.display()))?;

        let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
        let on_pixels =
            self.draw(&BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area());
        on_pixels.map_err(|error| anyhow::anyhow!("drawing {}: {error}", stem.display()))?;
        let png = stem.with_extension("png");
        write_png(&png, size, &pixels).with_context(|| format!("writing {}", png.display()))
    }

    fn draw<DB: DrawingBackend>(
        &self,
        root: &DrawingArea<DB, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(TITLE_HEIGHT);
        head.draw(&Text::new(
            self.title.as_str(),
            (20, 26),
            (FONT, 25).into_font(),
        ))?;
        let panels = body.split_evenly((self.panels.len(), 1));
        for (nth, (panel, area)) in self.panels.iter().zip(&panels).enumerate() {
            let is_last = nth + 1 == self.panels.len();
            self.draw_panel(panel, area, is_last)?;
        }
        self.draw_key(&head)?;
        root.present()
    }

    /// What shade and marks mean.
    fn draw_key<DB: DrawingBackend>(
        &self,
        head: &DrawingArea<DB, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        let (top, text_top) = (52, 48);
        head.draw(&Rectangle::new(
            [(100, top - 6), (120, top + 8)],
            SHADE.filled(),
        ))?;
        let text = |text, left| Text::new(text, (left, text_top), (FONT, 17).into_font());
        head.draw(&text(self.span.2, 128))?;
        if !self.marks.0.is_empty() {
            let mark = PathElement::new([(480, top - 8), (480, top + 10)], BLACK.mix(0.6));
            head.draw(&mark)?;
            head.draw(&text(self.marks.1, 490))?;
        }
        Ok(())
    }

    fn draw_panel<DB: DrawingBackend>(
        &self,
        panel: &Panel,
        area: &DrawingArea<DB, Shift>,
        is_last: bool,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        let points = panel.lines.iter().flat_map(|line| &line.points);
        let headroom = HEADROOM.0 + HEADROOM.1 * panel.lines.len() as f64;
        let most = points.map(|point| point.1).fold(1.0, f64::max) * (1.0 + headroom);
        let mut chart = ChartBuilder::on(area)
            .margin_left(16)
            .margin_right(24)
            .margin_top(8)
            .x_label_area_size(if is_last { 52 } else { 28 })
            .y_label_area_size(100)
            .build_cartesian_2d(0.0..self.until, 0.0..most)?;
        let (from, to, _) = self.span;
        let shade = Rectangle::new([(from, 0.0), (to, most)], SHADE.filled());
        chart.draw_series([shade])?;
        let marks = self.marks.0.iter();
        let marks = marks.map(|at| PathElement::new([(*at, 0.0), (*at, most)], BLACK.mix(0.6)));
        chart.draw_series(marks)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(if is_last { "seconds" } else { "" })
            .y_desc(panel.unit)
            .x_labels(12)
            .x_label_formatter(&|second| format!("{second:.0}"))
            .y_labels(6)
            .y_label_formatter(&|value| thousands(*value))
            .label_style((FONT, 17))
            .axis_desc_style((FONT, 18))
            .draw()?;
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
            chart
                .draw_series(series)?
                .label(&line.name)
                .legend(|at| swatch(at, *colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.85))
            .label_font((FONT, 17))
            .draw()
    }
}

fn write_png(file: &Path, (width, height): (u32, u32), pixels: &[u8]) -> anyhow::Result<()> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(file)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_written_in_threes() {
        let written = [0.0, 999.4, 1000.0, 1_500_000.0, -12_345.0].map(thousands);
        assert_eq!(written, ["0", "999", "1,000", "1,500,000", "-12,345"]);
    }

    #[test]
    fn a_picture_is_written_twice_and_is_not_blank() {
        crate::chart::register_font().expect("it comes with this program");
        let dir = tempfile::tempdir().expect("a directory");
        let line = |name: &str, slope: f64| Line {
            name: name.to_owned(),
            points: (0..10)
                .map(|x| (f64::from(x), f64::from(x) * slope))
                .collect(),
        };
        let picture = Picture {
            title: "A title".to_owned(),
            panels: vec![Panel {
                unit: "jobs/s",
                lines: vec![line("one", 1.0), line("two", 2.0)],
            }],
            span: (2.0, 5.0, "meanwhile"),
            marks: (vec![3.0], "done"),
            until: 9.0,
        };
        picture.write(&dir.path().join("one")).expect("a picture");
        let svg = std::fs::read_to_string(dir.path().join("one.svg")).expect("the text");
        assert!(svg.contains("jobs/s") && svg.contains("meanwhile"), "{svg}");
        let decoder = png::Decoder::new(std::io::BufReader::new(
            File::open(dir.path().join("one.png")).expect("the file"),
        ));
        let mut reader = decoder.read_info().expect("a PNG");
        let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
        reader.next_frame(&mut pixels).expect("an image");
        // Text is black or nearly so; nothing else here is, but the mark.
        let dark = pixels
            .chunks(3)
            .filter(|rgb| rgb.iter().all(|one| *one < 60));
        assert!(dark.count() > 500);
    }
}
